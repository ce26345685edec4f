"""What makes the documentation: the table of commands, the picture, the site's extra pages. Not in the
wheel."""
