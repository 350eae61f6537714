"""The part of a store that takes conversations out and in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from ..operations.base import Operations
from .exporting import Exported, ExportOptions, FileOptions, Target, export_sessions, export_user
from .importing import (
    Imported,
    ImportOptions,
    ReportOptions,
    Source,
    TableOptions,
    import_history,
    import_sessions,
    import_table,
)
from .sheets import SheetsExported, SheetsOptions, export_sheets

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory


class Transfer(Operations):
    """The part of a store that takes conversations out and in, in bounded pages and batches."""

    def export_sessions(self, target: Target, **options: Unpack[ExportOptions]) -> Exported:
        """Write conversations to a file.

        Sessions of this store's user (without one, the application's own); with `all_users`, everybody's. A file
        appears under its name when it is whole.

        Args:
            target: A path (with .gz or .zst, compressed), "-" for standard output, or a binary file.
            format: "jsonl" (exact, for `import_sessions`), "json", "csv", "parquet" (extra `[parquet]`), "openai"
                (fine-tuning), "openai-preferences" (pairs of answers with different feedback), "markdown" or "html".
            session_ids: These sessions, in this order; instead of filters.
            rows: For "csv" and "parquet": a row for each of "messages" (the default) or "conversations".
            tools: For both "openai" formats: the tools' schemas, which are not stored with conversations.
            feedback_key: For "openai": answers whose feedback of this key has a score of 0 or less get weight 0. For
                "openai-preferences": the scores that count; by default all.
            progress: Called with what is exported so far, after each page.
            **options: The filters of `sessions`.

        Returns:
            How much was written.

        Raises:
            InvalidInput: An argument cannot be right, or the file cannot be written.
            NotConfigured: A package that the format needs is not installed.
        """
        return self.run(export_sessions(self.scope, target, **options))

    async def aexport_sessions(self, target: Target, **options: Unpack[ExportOptions]) -> Exported:
        """Async version of `export_sessions`."""
        return await self.arun(export_sessions(self.scope, target, **options))

    def export_user(self, user_id: str, target: Target, **options: Unpack[FileOptions]) -> Exported:
        """Write all that is stored of a person to a file: for a request of access, say.

        What was cleared and not yet pruned is not in it; `prune` removes it.

        Args:
            user_id: Whose.
            target: As in `export_sessions`.
            format: As in `export_sessions`; by default "jsonl".
            progress: Called with what is exported so far, after each page.
            **options: `rows`, `tools` and `feedback_key`, as in `export_sessions`.

        Returns:
            How much was written.

        Raises:
            InvalidInput: An argument cannot be right, this store is another user's, or the file cannot be written.
            NotConfigured: A package that the format needs is not installed.
        """
        return self.run(export_user(self.scope, user_id, target, **options))

    async def aexport_user(self, user_id: str, target: Target, **options: Unpack[FileOptions]) -> Exported:
        """Async version of `export_user`."""
        return await self.arun(export_user(self.scope, user_id, target, **options))

    def export_sheets(self, spreadsheet: str, **options: Unpack[SheetsOptions]) -> SheetsExported:
        """Write conversations to a Google spreadsheet, or bring up to date what an export before has written there.

        Sessions of this store's user (without one, the application's own); with `all_users`, everybody's. Rows are
        found again by their ids, also when somebody has sorted or coloured them: what has changed is updated, what is
        new is appended, and nothing is removed. Interrupted and done again, it adds the rest. Needs the extra
        `[sheets]`.

        Args:
            spreadsheet: Its id, its URL or its name.
            credentials: The key of a service account: a dict, JSON text or the path of its file; by default what
                GOOGLE_SHEETS_CREDENTIALS has.
            worksheets: Which of "conversations", "messages", "usage" (per day, of all sessions, whatever the filters)
                and "feedback"; by default all. A dict gives them other titles.
            create: Whether to make a spreadsheet of this name where there is none.
            share_with: An e-mail address, or some, of people who may then edit it.
            session_ids: These sessions; instead of filters.
            progress: Called with what is done so far, after each page.
            **options: The filters of `sessions`.

        Returns:
            How much was written, and the spreadsheet's address.

        Raises:
            InvalidInput: An argument cannot be right.
            NotConfigured: There are no credentials, they cannot be used, or gspread is not installed.
            NotFound: The service account sees no such spreadsheet.
            Forbidden: Google refused the key, or the service account may not write to the spreadsheet.
            Conflict: A worksheet has one of the titles and columns of another kind.
            Unavailable: Google was busy, or could not be reached, for minutes.
        """
        return self.run(export_sheets(self.scope, spreadsheet, **options))

    async def aexport_sheets(self, spreadsheet: str, **options: Unpack[SheetsOptions]) -> SheetsExported:
        """Async version of `export_sheets`."""
        return await self.arun(export_sheets(self.scope, spreadsheet, **options))

    def import_sessions(self, source: Source, **options: Unpack[ImportOptions]) -> Imported:
        """Store the conversations of a file. Done again, also after an interruption, it stores nothing twice.

        Each conversation is stored whole, or, where it cannot be read, not at all; then the report says why. A store
        for a user (`for_user`, `as_user`) makes all of them that user's; another keeps the users of the file.

        Args:
            source: A path (.gz and .zst are unpacked), "-" for standard input, a binary file, or a folder: then all
                files in it that end in .json or .jsonl.
            format: What wrote it: "jsonl" or "json" (this library), "messages" (lists of role and content or type and
                data), "chatgpt", "claude", "conversations-table"; by default it is recognised.
            user_id: The user whose all of them become.
            dry_run: Store nothing, and return what would be stored.
            progress: Called with what is done so far, after each batch.

        Returns:
            How much was stored, and what could not be read.

        Raises:
            InvalidInput: An argument cannot be right, or the file is nothing that is known.
        """
        return self.run(import_sessions(self.scope, source, **options))

    async def aimport_sessions(self, source: Source, **options: Unpack[ImportOptions]) -> Imported:
        """Async version of `import_sessions`."""
        return await self.arun(import_sessions(self.scope, source, **options))

    def import_table(self, conninfo: str, table: str | None = None, **options: Unpack[TableOptions]) -> Imported:
        """Store the conversations that another library keeps in a table, in any PostgreSQL database.

        The table is only read, within one snapshot. Done again, it stores nothing twice.

        Args:
            conninfo: The connection string of that database.
            table: The table, with its schema where that is not on the login's path.
            format: Whose table: "messages-table" (langchain-postgres, both classes of langchain-community,
                LangChain.js, n8n), "openai-agents", "langgraph" (needs langgraph-checkpoint-postgres) or
                "conversations-table"; by default it is recognised by the table's columns. The last three have a
                default name.
            user_id: The user whose all of them become.
            dry_run: Store nothing, and return what would be stored.
            progress: Called with what is done so far, after each batch.

        Returns:
            How much was stored, and what could not be read.

        Raises:
            InvalidInput: An argument cannot be right, or the table is none that is known.
            NotFound: There is no such table.
            NotConfigured: A package that is needed to read it is not installed.
            Unavailable: The table's database cannot be reached.
        """
        return self.run(import_table(self.scope, conninfo, table, **options))

    async def aimport_table(self, conninfo: str, table: str | None = None, **options: Unpack[TableOptions]) -> Imported:
        """Async version of `import_table`."""
        return await self.arun(import_table(self.scope, conninfo, table, **options))

    def import_history(
        self, history: BaseChatMessageHistory, session_id: str, **options: Unpack[ReportOptions]
    ) -> Imported:
        """Store the messages of another chat message history. Done again, it stores those that came since.

        Args:
            history: Any `BaseChatMessageHistory`; its `messages` are read once.
            session_id: The session that they become.
            user_id: The user whose it becomes.
            dry_run: Store nothing, and return what would be stored.
            progress: Called with what is done so far, after each batch.

        Returns:
            How much was stored, and what could not be read.

        Raises:
            InvalidInput: An argument cannot be right.
        """
        return self.run(import_history(self.scope, history, session_id, **options))

    async def aimport_history(
        self, history: BaseChatMessageHistory, session_id: str, **options: Unpack[ReportOptions]
    ) -> Imported:
        """Async version of `import_history`."""
        return await self.arun(import_history(self.scope, history, session_id, **options))
