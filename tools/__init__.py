"""Tools that write the documentation: tables of commands and metrics, the picture, the site's extra pages.

The wheel does not contain them.
"""
