"""Application: a finished dictionary in the hands of a researcher, applied to text of their own."""
