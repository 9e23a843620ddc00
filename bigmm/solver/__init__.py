"""From crossproducts to estimates of theta: no rows, no Dask."""
