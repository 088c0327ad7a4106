"""CoordExp: a vision-language model as an open-vocabulary object detector, without a detection head.

Importing this package loads nothing heavy; import the room you need (`coordexp.codec`, `coordexp.evaluation`, …).
"""

__version__ = "0.1.0.dev0"
