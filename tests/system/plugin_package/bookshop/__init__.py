"""What the bookshop adds to recsys."""
