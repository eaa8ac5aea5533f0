"""How the embedded model is made: what it draws (scenes), how it is judged (look) and the recipe (make)."""
