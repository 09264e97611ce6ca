"""Documents for people, as pages that need nothing else: words, tables, pictures, drawings."""
