"""Results that change hands: records of other people checked, merged and exported.

`files` reads what nobody vouches for; `shape` says what a record looks like; `verify` checks that it follows from its
predictions; `merge` joins results folders; `export` makes a flat table.
"""
