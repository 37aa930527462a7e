"""The report of a sweep: one table, plots and a page that opens offline."""
