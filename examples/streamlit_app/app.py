"""A chat whose conversations are kept: `streamlit run app.py`, or `make app` in a checkout.

    pip install -r requirements.txt
    streamlit run app.py

Without secrets it runs on an embedded PostgreSQL with a scripted model. What else it takes is in
`.streamlit/secrets.toml.example`. The owner's page is at `/?owner=1`.
"""

import chat
import owner
import streamlit as st

st.set_page_config(page_title="Chat", page_icon="💬", layout="centered")
if "owner" in st.query_params:
    owner.show()
else:
    chat.show()
