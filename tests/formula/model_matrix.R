# Writes model_matrix.json: what R's model.matrix() makes of some formulas. Run in this folder: Rscript model_matrix.R
library(jsonlite)

d <- data.frame(
  a = c("p", "q", "r", "p", "q", "r", "p", "q", "r", "p", "q", "r"),
  b = c("u", "u", "u", "v", "v", "v", "v", "u", "u", "u", "v", "v"),
  k = c(1, 2, 10, 10, 2, 1, 1, 2, 10, 1, 10, 2),
  x = c(0.5, -1, 2, 3, 1.5, -2, 0, 4, -3, 2.5, 1, -0.5),
  z = c(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13),
  stringsAsFactors = TRUE
)
custom <- matrix(c(1, 0, -1, 0.5, -1, 0.5), 3)
r4 <- c("contr.treatment", "contr.sum", "contr.helmert", "contr.poly")

cases <- list()
add <- function(formula, contrasts = NULL) {
  arguments <- if ("custom" %in% contrasts) list(a = custom) else contrasts
  X <- model.matrix(formula, d, contrasts.arg = arguments)
  text <- sub("^~", "", paste(deparse(formula), collapse = ""))
  cases[[length(cases) + 1]] <<- list(
    formula = unbox(paste("z ~", text, "+ (1 | g)")), contrasts = lapply(contrasts, unbox), names = colnames(X),
    rank = unbox(qr(X)$rank), X = unname(X)
  )
}
add(~ x)
add(~ a + b + x)
add(~ a * b * x)
add(~ a + b + z, list(a = "contr.sum", b = "contr.sum"))
add(~ a * x, list(a = "contr.helmert"))
add(~ a * b, list(a = "contr.poly", b = "contr.sum"))
add(~ a + x, list(a = "custom"))
add(~ a * x - 1, list(a = "custom"))
add(~ 0 + a + b)
add(~ 0 + b + a + x)
add(~ 0 + x)
add(~ a:b)
add(~ 0 + a:b)
add(~ a:x)
add(~ 0 + a:x + b)
add(~ b/a)
add(~ a/x)
add(~ x:b + a:x)
add(~ z + a * b + x:a)
add(~ x * z + b:z)
add(~ a:b:x)
add(~ a + a:b:x)
add(~ b:a + a)
add(~ a * b - a)
add(~ factor(k) * x)
add(~ factor(k) * a)
add(~ C(a, contr.sum) + I(x^2) + log(z))
add(~ C(b, contr.sum) * a + I(x/2) * b)

result <- list(R = unbox(R.version.string), cases = cases)
writeLines(toJSON(result, digits = NA, pretty = FALSE), "model_matrix.json")
