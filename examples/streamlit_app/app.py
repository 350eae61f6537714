"""A chat whose conversations are kept: `streamlit run app.py`, or `make app` in a checkout.

    pip install -r requirements.txt
    streamlit run app.py

Without secrets it runs on an embedded PostgreSQL with a scripted model. What else it takes is in
`.streamlit/secrets.toml.example`.
"""

import streamlit as st

st.set_page_config(page_title="Chat", page_icon="💬", layout="centered")
st.navigation([st.Page("chat.py", title="Chat", default=True)], position="hidden").run()
