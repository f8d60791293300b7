"""Retrieval: documents, vectors and full text in one directory, for what the weights should not hold.

Read in this order: documents (a file → chunks), governance (secrets, personal data, flags), collections (metadata of
each), embedding and minilm (text → vector), store and vectors (SQLite beside one memory map), index (add, search),
timeline (PDCAs in order of time).
"""
