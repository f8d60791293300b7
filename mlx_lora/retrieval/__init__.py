"""Retrieval: documents, vectors and full text in one directory, for what the weights should not hold.

Read in this order: documents (a file → chunks), governance (secrets, personal data, flags), collections (metadata of
each), embedding and minilm (text → vector), store and vectors (SQLite beside one memory map), index (add, search),
timeline (PDCAs in order of time). Then who uses it: tool_need and workspace_words (does a request need a tool?),
ecosystems and tool_prompts (tools and stored calls before a request), answering (sources before a question), judging
(answers with and without them, in pairs), smoke and smoke_tables (tests of a deployed model).
"""
