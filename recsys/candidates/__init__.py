"""Candidate generation: ranked lists for all users, written part by part, complete or resumable."""
