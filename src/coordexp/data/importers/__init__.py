"""Readers of annotation formats. Each yields images with objects as its files say; one path makes records of them (`importers.run`)."""
