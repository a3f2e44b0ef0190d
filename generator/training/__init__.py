"""Training of the embedded default model: invented documents, the base model, its hypernetworks."""
