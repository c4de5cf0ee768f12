"""One figure per file; the file's name is the figure's name.

A figure exposes `NEEDS`, the columns it cannot do without, and `draw(df) -> matplotlib Figure`. It
may expose `TITLE` (what it shows, in one line), `PAPERS` (which published figures it answers to),
`Config` (a frozen dataclass of its choices), `OPTIONAL` (further columns it reads when they are
there), `USES_VECTORS = True`, and `data(df, config, vectors) -> DataFrame`, the tidy table of
everything the picture shows. When `data` exists, `draw` takes its result as `table`, so that
picture and CSV cannot differ.
"""
