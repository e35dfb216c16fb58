"""Parts of the recipe of the embedded encoder; `pipelines.train_embedded_encoder` runs them."""
