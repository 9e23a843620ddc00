"""From rows to crossproducts: one pass on Dask."""
