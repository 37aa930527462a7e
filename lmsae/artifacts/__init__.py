"""Artifacts: directories named by the hash of their specs, claims on them, and digests of files."""
