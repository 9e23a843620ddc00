# Reference results of lme4 for every case of cases.json.
#
# Run from the repository's top:
#
#   OPENBLAS_NUM_THREADS=1 setarch -R Rscript tests/reference/lme4.R --data tests/data --data DIR [--jobs N] \
#       [--overwrite] tests/reference/lme4.json
#
# Needs R with lme4, minqa and jsonlite. A case's data file is DATA.csv in the first --data directory that has it; DIR
# holds classroom.csv, which is not part of the repository. An existing output file is kept unless --overwrite is given.
# With one BLAS thread and fixed addresses (setarch -R) every run writes the same bytes; with random addresses the last
# bit of an objective may move, and theta by 1e-8 with it.
#
#   Rscript tests/reference/lme4.R --simulate [--overwrite] tests/data
#
# writes simulated.csv and deficient.csv, always the same.
#
# Conventions of the output:
# - numbers have 17 significant digits, null stands for NA; terms, levels and names are spelled and ordered as lme4 does
# - the fit is the lowest objective of three: nloptwrap, nloptwrap restarted at its optimum, bobyqa
# - "vcov" is null for more than 12 fixed effects; a matrix is a list of rows
# - "ranef" and "condVar" hold all levels of a factor with fewer than 100 levels, and the first 5 of a larger one;
#   "condVar" is lme4's postVar: a list with one entry a term, the k x k block of a level flattened by column
# - "predict" is about the first 6 complete rows; "rows" counts the rows of the data file from 0

suppressPackageStartupMessages(library(lme4))
invisible(Sys.setlocale("LC_COLLATE", "C"))
options(warn = 1)

MANY_LEVELS <- 100
FEW_LEVELS <- 5
MANY_COEFFICIENTS <- 12
PREDICTED_ROWS <- 6

main <- function(args) {
    opts <- parse_args(args)
    if (opts$simulate) return(write_simulated(opts$output, opts$overwrite))
    refuse_overwrite(opts$output, opts$overwrite)
    cases <- jsonlite::fromJSON(file.path(script_dir(), "cases.json"), simplifyVector = FALSE)
    names(cases) <- vapply(cases, `[[`, "", "name")
    stopifnot(!anyDuplicated(names(cases)))
    results <- parallel::mclapply(cases, reference_or_error, dirs = opts$data, mc.cores = opts$jobs,
                                  mc.preschedule = FALSE)
    failed <- vapply(results, inherits, NA, "error")
    for (name in names(cases)[failed]) message(name, ": ", conditionMessage(results[[name]]))
    if (any(failed)) quit(status = 1)
    writeLines(to_json(list(versions = versions(), cases = results)), opts$output)
}

parse_args <- function(args) {
    opts <- list(data = character(), output = NULL, jobs = 1L, overwrite = FALSE, simulate = FALSE)
    while (length(args) > 0) {
        arg <- args[1]
        value <- args[2]
        taken <- if (arg %in% c("--data", "--jobs")) 2 else 1
        if (arg == "--data") opts$data <- c(opts$data, value)
        else if (arg == "--jobs") opts$jobs <- as.integer(value)
        else if (arg == "--overwrite") opts$overwrite <- TRUE
        else if (arg == "--simulate") opts$simulate <- TRUE
        else if (startsWith(arg, "--")) stop("unknown option ", arg)
        else opts$output <- c(opts$output, arg)
        args <- args[-seq_len(taken)]
    }
    if (length(opts$output) != 1) stop("expected exactly one output path")
    if (length(opts$data) == 0) opts$data <- "tests/data"
    opts
}

script_dir <- function() {
    path <- sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))
    dirname(path)
}

refuse_overwrite <- function(path, overwrite) {
    if (file.exists(path) && !overwrite) stop(path, " exists: give --overwrite to replace it", call. = FALSE)
}

versions <- function() {
    packages <- c("lme4", "Matrix", "nloptr", "minqa")
    c(list(R = as.character(getRversion())),
      sapply(packages, function(p) as.character(packageVersion(p)), simplify = FALSE),
      list(BLAS = basename(extSoftVersion()[["BLAS"]]), LAPACK = basename(La_library())))
}

# --- one case ---------------------------------------------------------------------------------------------------------

reference_or_error <- function(case, dirs) {
    tryCatch(suppressMessages(reference(case, dirs)), error = identity)
}

reference <- function(case, dirs) {
    data <- read_data(case, dirs)
    default <- fit_case(case, data)
    fit <- best_fit(case, data)
    c(list(
        objective = objective(fit),
        theta = vector_of(getME(fit, "theta")),
        theta_names = vector_of(names(getME(fit, "theta"))),
        fixef = list(names = vector_of(names(fixef(fit))), values = vector_of(fixef(fit))),
        stderr = vector_of(sqrt(diag(as.matrix(vcov(fit))))),
        vcov = if (length(fixef(fit)) <= MANY_COEFFICIENTS) rows_of(as.matrix(vcov(fit))),
        sigma = sigma(fit),
        logLik = as.numeric(logLik(fit)),
        AIC = AIC(fit),
        BIC = BIC(fit),
        nobs = nobs(fit),
        ngroups = as.list(ngrps(fit)),
        dropped_columns = vector_of(names(attr(getME(fit, "X"), "col.dropped"))),
        singular = isSingular(fit),
        varcorr = varcorr_rows(fit),
        fixed_theta = at_fixed_theta(case, data, fit),
        default_evals = default@optinfo$feval,
        default_objective = objective(default)
    ), random_effects(fit), list(predict = predicted(fit)))
}

read_data <- function(case, dirs) {
    paths <- file.path(dirs, paste0(case$data, ".csv"))
    if (!any(file.exists(paths))) stop("no ", case$data, ".csv in ", toString(dirs))
    data <- read.csv(paths[file.exists(paths)][1], stringsAsFactors = TRUE)
    for (column in case$factors) data[[column]] <- factor(data[[column]])
    data
}

# lmer() with the case's own arguments; a call, so that weights and offset are looked up among the columns.
fit_case <- function(case, data, control = lmerControl(calc.derivs = FALSE), start = NULL, devFunOnly = FALSE) {
    args <- list(quote(lmer), as.formula(case$formula), data = quote(data), REML = case$reml, control = quote(control),
                 start = quote(start), devFunOnly = devFunOnly)
    if (!is.null(case$weights)) args$weights <- as.name(case$weights)
    if (!is.null(case$offset)) args$offset <- as.name(case$offset)
    if (!is.null(case$contrasts)) args$contrasts <- lapply(case$contrasts, function(kind) paste0("contr.", kind))
    eval(as.call(args))
}

best_fit <- function(case, data) {
    tight <- lmerControl(optimizer = "nloptwrap", calc.derivs = FALSE,
                         optCtrl = list(ftol_abs = 1e-12, xtol_abs = 1e-10, maxeval = 10000))
    other <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(rhoend = 1e-10, maxfun = 10000))
    first <- fit_case(case, data, tight)
    polished <- fit_case(case, data, tight, start = list(theta = getME(first, "theta")))
    fits <- list(first, polished, fit_case(case, data, other))
    fits[[which.min(vapply(fits, objective, 0))]]
}

objective <- function(fit) if (isREML(fit)) REMLcrit(fit) else deviance(fit, REML = FALSE)

# The start (the identity), a theta without structure, and zero (no random effects).
at_fixed_theta <- function(case, data, fit) {
    devfun <- fit_case(case, data, devFunOnly = TRUE)
    diagonal <- getME(fit, "lower") == 0
    i <- seq_along(diagonal)
    thetas <- list(as.numeric(diagonal), ifelse(diagonal, 0.4 + 0.1 * i, 0.25 * (-1)^i), 0 * i)
    lapply(thetas, function(theta) list(theta = vector_of(theta), objective = as.numeric(devfun(theta))))
}

varcorr_rows <- function(fit) {
    table <- as.data.frame(VarCorr(fit))
    lapply(seq_len(nrow(table)), function(i) as.list(table[i, ]))
}

random_effects <- function(fit) {
    effects <- ranef(fit, condVar = TRUE)
    list(ranef = lapply(effects, ranef_table), condVar = lapply(effects, conditional_variances))
}

kept_levels <- function(effects) {
    levels <- rownames(effects)
    seq_len(if (length(levels) < MANY_LEVELS) length(levels) else FEW_LEVELS)
}

ranef_table <- function(effects) {
    kept <- kept_levels(effects)
    list(levels = vector_of(rownames(effects)[kept]), columns = vector_of(colnames(effects)),
         values = rows_of(as.matrix(effects)[kept, , drop = FALSE]))
}

# A factor with several terms has a list of arrays, one a term; their columns follow each other in the table of effects.
conditional_variances <- function(effects) {
    arrays <- attr(effects, "postVar")
    if (!is.list(arrays)) arrays <- list(arrays)
    last <- cumsum(vapply(arrays, nrow, 0L))
    Map(function(array, last) {
        columns <- colnames(effects)[seq(to = last, length.out = nrow(array))]
        blocks <- lapply(kept_levels(effects), function(j) vector_of(array[, , j]))
        list(columns = vector_of(columns), values = blocks)
    }, unname(arrays), last)
}

predicted <- function(fit) {
    first <- seq_len(PREDICTED_ROWS)
    list(rows = as.integer(rownames(model.frame(fit)))[first] - 1L, conditional = vector_of(fitted(fit)[first]),
         population = vector_of(predict(fit, re.form = NA)[first]))
}

# --- data sets --------------------------------------------------------------------------------------------------------

write_simulated <- function(dir, overwrite) {
    write_data(simulated(), file.path(dir, "simulated.csv"), overwrite)
    write_data(deficient(), file.path(dir, "deficient.csv"), overwrite)
}

write_data <- function(data, path, overwrite) {
    refuse_overwrite(path, overwrite)
    numbers <- vapply(data, is.double, NA)
    data[numbers] <- lapply(data[numbers], signif, 6)
    write.csv(data, path, row.names = FALSE)
}

seed <- function(number) {
    set.seed(number, kind = "Mersenne-Twister", normal.kind = "Inversion", sample.kind = "Rejection")
}

# Unbalanced, all factors crossed but sub, which counts within g. Every random effect of the cases has a variance.
simulated <- function(n = 400) {
    seed(1)
    labels <- sprintf("g%d", 1:30)  # "g10" sorts before "g2"
    keys <- sort(sample(2000, 20))
    d <- data.frame(
        x = rnorm(n), z = runif(n, -1, 2), w = exp(rnorm(n, 0, 0.5)), o = rnorm(n, 5, 0.5),
        f = sample(c("high", "low", "mid"), n, TRUE, c(0.5, 0.3, 0.2)), h = sample(c("no", "yes"), n, TRUE),
        g = labels[c(1:30, sample(30, n - 30, TRUE, 30:1))], s = LETTERS[sample(12, n, TRUE)],
        k = sample(keys, n, TRUE), sub = letters[sample(3, n, TRUE)])
    d$y <- with(d, 2 + 1.5 * x - 0.7 * z + 0.4 * x * z + c(high = 1, low = 0, mid = -0.5)[f] + 0.3 * (h == "yes") + o +
        effect(g, 1) + effect(g, 0.7) * x + effect(g, 0.7) * z + effect(paste(g, f), 0.5) +
        effect(paste(g, h), 0.4) + effect(paste(g, sub), 0.7) + effect(paste(g, sub), 0.6) * x +
        effect(s, 0.8) + effect(s, 0.9) * z + effect(paste(s, f), 1) + effect(k, 0.6) + 0.6 * rnorm(n) / sqrt(w))
    for (column in c("y", "x", "z", "w", "o", "f", "h", "g", "s")) d[[column]][sample(n, 4)] <- NA
    d[c("y", "x", "z", "w", "o", "f", "h", "g", "s", "k", "sub")]
}

# A normal effect for each distinct value of the key.
effect <- function(key, sd) {
    values <- sort(unique(key))
    rnorm(length(values), 0, sd)[match(key, values)]
}

# x3 = x1 + x2, c is constant, and the cell f = "c", h = "yes" is empty.
deficient <- function(n = 120) {
    seed(2)
    cells <- list(c("a", "no"), c("a", "yes"), c("b", "no"), c("b", "yes"), c("c", "no"))[sample(5, n, TRUE)]
    d <- data.frame(x1 = round(rnorm(n), 3), x2 = round(runif(n), 3), c = 2.5, f = vapply(cells, `[`, "", 1),
                    h = vapply(cells, `[`, "", 2), g = sprintf("g%02d", sample(15, n, TRUE)))
    d$x3 <- d$x1 + d$x2
    d$y <- with(d, 1 + x1 - x2 + (f == "b") + 0.5 * (h == "yes") + effect(g, 1) + rnorm(n))
    d[c("y", "x1", "x2", "x3", "c", "f", "h", "g")]
}

# --- JSON with 17 significant digits ----------------------------------------------------------------------------------

# An array even when it has one element or none; a named list is an object, everything else of length one a scalar.
vector_of <- function(x) as.list(unname(x))
rows_of <- function(matrix) lapply(seq_len(nrow(matrix)), function(i) vector_of(matrix[i, ]))

to_json <- function(x, indent = "") {
    if (is.null(x)) return("null")
    if (!is.list(x)) return(if (length(x) == 1) scalar_json(x) else to_json(vector_of(x), indent))
    deeper <- paste0(indent, "  ")
    inside <- vapply(x, to_json, "", indent = deeper)
    flat <- is.null(names(x)) && !any(vapply(x, function(item) is.list(item) && !is.null(names(item)), NA))
    if (flat) return(paste0("[", paste(inside, collapse = ", "), "]"))
    if (!is.null(names(x))) inside <- paste0(vapply(names(x), scalar_json, ""), ": ", inside)
    ends <- if (is.null(names(x))) c("[", "]") else c("{", "}")
    paste0(ends[1], "\n", paste0(deeper, inside, collapse = ",\n"), "\n", indent, ends[2])
}

scalar_json <- function(x) {
    if (is.na(x)) "null"
    else if (is.logical(x)) tolower(as.character(x))
    else if (is.character(x)) encodeString(x, quote = '"')
    else sprintf("%.17g", x)
}

main(commandArgs(TRUE))
