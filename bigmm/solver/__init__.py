"""From crossproducts to estimates of theta: no rows, no Dask."""

from bigmm.solver import openmp

openmp.load()
