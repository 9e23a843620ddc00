# lme4 as a competitor: the protocol of measuring.py. Needs R with lme4 and jsonlite.

suppressPackageStartupMessages({
    library(lme4)
    library(jsonlite)
})

main <- function(task) {
    base <- memory("VmRSS")
    data <- read_data(task$folder)
    formula <- as.formula(task$formula)
    devfun <- lmer(formula, data, REML = task$reml, devFunOnly = TRUE)
    start <- environment(devfun)$pp$theta + 0  # a copy: evaluations change it
    reply(list(diagonal = I(environment(devfun)$lower == 0), versions = versions(), blas = blas(), base = base))
    input <- file("stdin", "r")
    while (length(line <- readLines(input, n = 1)) > 0) {
        order <- fromJSON(line, simplifyVector = FALSE)
        answer <- switch(order$measure,
            evaluation = evaluation(devfun, lapply(order$thetas, unlist), order$budget),
            fit = fit(devfun, start, order$budget),
            lmer = whole(function() lmer(formula, data, REML = task$reml), order$budget)
        )
        reply(c(answer, peak = memory("VmHWM")))
    }
}

read_data <- function(folder) {
    about <- fromJSON(file.path(folder, "columns.json"))
    columns <- lapply(setNames(nm = names(about$kinds)), function(name) {
        kind <- about$kinds[[name]]
        path <- file.path(folder, paste0(name, ".", kind))
        if (kind == "number") return(readBin(path, "double", about$rows))
        codes <- readBin(path, "integer", about$rows)
        structure(codes, levels = readLines(file.path(folder, paste0(name, ".levels"))), class = "factor")
    })
    structure(columns, class = "data.frame", row.names = .set_row_names(about$rows))
}

# Seconds of one deviance, the thetas in turn.
evaluation <- function(devfun, thetas, budget) {
    if (budget == 0) thetas <- thetas[1]
    objectives <- numeric(0)
    found <- repeated(function() objectives <<- c(objectives, devfun(thetas[[length(objectives) %% length(thetas) + 1]])), budget)
    list(seconds = found$seconds, repeats = found$repeats, evaluations = 1, objective = objectives[1])
}

# Seconds of the search alone, as lmer() does it, without the check of derivatives after it.
fit <- function(devfun, start, budget) {
    control <- lmerControl()
    found <- repeated(function() {
        optimizeLmer(devfun, optimizer = control$optimizer, restart_edge = control$restart_edge, boundary.tol = control$boundary.tol,
                     start = start, calc.derivs = FALSE, control = control$optCtrl)
    }, budget)
    list(seconds = found$seconds, repeats = found$repeats, evaluations = found$value$feval, objective = found$value$fval)
}

# Seconds of lmer() as it comes: model frame, search, check of the derivatives.
whole <- function(run, budget) {
    found <- repeated(run, budget)
    list(seconds = found$seconds, repeats = found$repeats, evaluations = found$value@optinfo$feval,
         objective = unname(getME(found$value, "devcomp")$cmp[[if (isREML(found$value)) "REML" else "dev"]]))
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

# Bytes of this process; 0 where the system does not tell.
memory <- function(name) {
    if (!file.exists("/proc/self/status")) return(0)
    line <- grep(paste0("^", name, ":"), readLines("/proc/self/status"), value = TRUE)
    as.numeric(gsub("[^0-9]", "", line)) * 1024
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
