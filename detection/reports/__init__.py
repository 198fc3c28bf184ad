"""Reports: documents of blocks, written as Markdown and HTML."""
