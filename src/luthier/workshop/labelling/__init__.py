"""Labels that people give: what to ask next, who said what, how far they agree, and what trains of it. On the store of feedback."""
