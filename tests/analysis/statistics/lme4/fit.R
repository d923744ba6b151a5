# Golden numbers of test_reml.py: Rscript fit.R rows.csv golden.json
# rows.csv: model,source,target,y as written by 'python -m tests.analysis.statistics.lme4.write_rows rows.csv'.
# Made with R 4.2.2 and lme4 1.1-31 (Debian r-cran-lme4), default optimiser, tighter tolerance.
library(lme4)
arguments <- commandArgs(trailingOnly = TRUE)
rows <- read.csv(arguments[1], stringsAsFactors = TRUE)
control <- lmerControl(optCtrl = list(xtol_rel = 1e-10, ftol_abs = 1e-10), calc.derivs = FALSE)
fit <- lmer(y ~ 1 + (1 | model) + (1 | source) + (1 | target), data = rows, REML = TRUE, control = control)
nested <- lmer(y ~ 1 + (1 | model) + (1 | model:source) + (1 | model:target), data = rows, REML = TRUE, control = control)
variances <- function(fit, names) {
  found <- as.data.frame(VarCorr(fit))
  values <- setNames(found$vcov, found$grp)
  paste(sprintf('"%s": %.10g', c("model", "source", "target", "residual"), values[c(names, "Residual")]), collapse = ", ")
}
text <- sprintf(
  '{\n  "crossed": {%s},\n  "nested": {%s},\n  "criterion": %.10g,\n  "intercept": %.10g,\n  "intercept_se": %.10g\n}\n',
  variances(fit, c("model", "source", "target")),
  variances(nested, c("model", "model:source", "model:target")),
  REMLcrit(fit), fixef(fit)[[1]], sqrt(vcov(fit)[1, 1])
)
cat(text, file = arguments[2])
