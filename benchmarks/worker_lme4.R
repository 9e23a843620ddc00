# lme4 as a competitor: loads one problem, then measures what it is told to, a line of JSON at a time.
# The same protocol as worker_bigmm.py. Needs R with lme4 and jsonlite.

suppressPackageStartupMessages({
    library(lme4)
    library(jsonlite)
})

main <- function(task) {
    data <- read_data(task$path, unlist(task$categories))
    formula <- as.formula(task$formula)
    devfun <- lmer(formula, data, REML = task$reml, devFunOnly = TRUE)
    reply(list(diagonal = I(environment(devfun)$lower == 0), versions = versions(), blas = blas()))
    input <- file("stdin", "r")
    while (length(line <- readLines(input, n = 1)) > 0) {
        order <- fromJSON(line, simplifyVector = FALSE)
        if (order$measure == "evaluation") {
            reply(evaluation(devfun, lapply(order$thetas, unlist), order$budget))
        } else {
            reply(fit(function() lmer(formula, data, REML = task$reml), order$budget))
        }
    }
}

read_data <- function(path, categories) {
    data <- read.csv(path, colClasses = setNames(rep("character", length(categories)), categories))
    data[categories] <- lapply(data[categories], factor)
    data
}

# Seconds of one deviance, over passes through the thetas.
evaluation <- function(devfun, thetas, budget) {
    objectives <- vapply(thetas, devfun, 0)
    found <- repeated(function() for (theta in thetas) devfun(theta), budget)
    list(seconds = found$seconds / length(thetas), repeats = found$repeats * length(thetas), evaluations = 1, objectives = I(objectives))
}

# Seconds of lmer() as it comes: model frame, search, check of the derivatives.
fit <- function(run, budget) {
    found <- repeated(run, budget)
    list(seconds = found$seconds, repeats = found$repeats, evaluations = found$value@optinfo$feval,
         objectives = I(unname(getME(found$value, "devcomp")$cmp[[if (isREML(found$value)) "REML" else "dev"]])))
}

# Median seconds of a call, over as many calls as begin within the budget.
repeated <- function(call, budget) {
    seconds <- numeric(0)
    while (length(seconds) == 0 || sum(seconds) < budget) {
        start <- Sys.time()
        value <- call()
        seconds <- c(seconds, as.numeric(Sys.time() - start, units = "secs"))
    }
    list(seconds = median(seconds), repeats = length(seconds), value = value)
}

versions <- function() {
    paste0("lme4 ", packageVersion("lme4"), ", Matrix ", packageVersion("Matrix"), ", R ", getRversion())
}

# "libopenblasp-r0.3.21.so" is OpenBLAS 0.3.21; other libraries keep their file's name.
blas <- function() {
    name <- basename(La_library())
    if (grepl("openblas", name)) sub(".*-r([0-9.]+)\\.so.*", "openblas \\1", name) else name
}

reply <- function(answer) {
    cat(toJSON(answer, auto_unbox = TRUE, digits = NA), "\n", sep = "")
    flush(stdout())
}

main(fromJSON(commandArgs(trailingOnly = TRUE)[1], simplifyVector = FALSE))
