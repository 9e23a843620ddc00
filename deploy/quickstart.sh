#!/bin/sh
# Install bigmm and fit a model of 73,421 ratings of lecturers by students (InstEval, of R's lme4), read from eight Parquet files.
set -eu

cd "$(dirname "$0")/.."
sh deploy/install.sh
.venv/bin/python deploy/cut_insteval.py tests/data/insteval.csv quickstart/insteval
.venv/bin/bigmm fit "y ~ 1 + service + (1|s) + (1|d) + (1|dept)" quickstart/insteval --ml --workers 2 --out quickstart/fit
