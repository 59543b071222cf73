"""Which setting of the rules suits a model: one half of the data chooses among many composites, the other reports."""
