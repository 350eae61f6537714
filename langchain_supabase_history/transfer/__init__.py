"""Conversations as files: taken out of a store in bounded pages, and brought in again in bounded batches."""
