-- Views for plain SQL, dashboards and the Data API: what the functions give, without having to know what is hidden. They
-- run as who reads them, so each user sees no more than the tables would show.
--
--   chat_history_session_list   as chat_history_list_sessions
--   chat_history_message_list   as chat_history_list_messages, with the text of each message

create view chat_history_session_list with (security_invoker = true) as
  select s.session_id, nullif(s.user_id, '') as user_id,
      coalesce(s.title, chat_history_first_question(s)) as title, s.tags, s.pinned, s.archived,
      chat_history_own_metadata(s.metadata) as metadata, s.created_at, s.updated_at, s.message_count, s.turn_count, s.total_tokens, chat_history_last_text(s) as excerpt, s.forked_from
    from chat_history_sessions s
    where s.deleted_at is null and (s.message_count > 0 or s.title is not null and s.last_position = 0);

create view chat_history_message_list with (security_invoker = true) as
  select s.session_id, nullif(m.user_id, '') as user_id, m.position, m.id, m.turn_id, m.type,
      chat_history_text(m.data) as text, m.data, m.tokens, m.in_context, m.begins_turn, m.created_at
    from chat_history_messages m join chat_history_sessions s on s.session_key = m.session_key
    where s.deleted_at is null and m.position > s.cleared_position;

select chat_history_grant();
