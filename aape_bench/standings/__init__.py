"""Who is ahead of whom, and how sure one may be: ranks, real differences and means over tasks, from records.

`tables` makes one table per task, protocol, data and class of rows; `differences` says which of its rows can be told
apart; `overall` goes over tasks, and `friedman` asks whether ranks differ over them. `sheets` and `paper` lay out ranks
and the leaderboard; `texts` writes that as Markdown, LaTeX or CSV.
"""
