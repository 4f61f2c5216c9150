"""Exhaustive damage of a small archive of each kind: an error that names it, or identical bytes.

=================  ============================================================================================
`subjects`         what is damaged: its bytes, how it is read, where the numbers of its headers are, and what a damage
                   may change without an error
`damages`          every damage of one
`zips`, `tars`...  the kinds; `kinds` has all of them by name
`child`            a process with little memory, which tries the damages of one kind
`runner`           starts it, sees that it goes on and ends, and says at which damage it did not
=================  ============================================================================================

``python -m tests.damage`` tries all of it; the tests try a share, the same each time.
"""
