"""How a pool is ranked for every class: queries, scores, an index, a least probability."""
