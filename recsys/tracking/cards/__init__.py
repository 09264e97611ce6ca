"""What a model card says, and how it is written as Markdown and as a page."""
