"""Invented documents with questions and answers: nothing in them can be known from elsewhere."""
