"""Embeddings of a frozen network, computed once for every job that needs them."""
