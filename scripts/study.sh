#!/usr/bin/env bash
# scripts/study.sh EXPERIMENT [OVERRIDES…]: run configs/experiment/EXPERIMENT.yaml and write results/EXPERIMENT/.
#
# What is finished is not run again, and what was interrupted goes on, so the same command may be given as often
# as needed. results/EXPERIMENT/ then has the table (Markdown, CSV) and all runs, a row each, with provenance.
set -euo pipefail
cd "$(dirname "$0")/.."
experiment=$1
shift
rnnbench=.venv/bin/rnnbench
[ -x "$rnnbench" ] || rnnbench=rnnbench
runs=results/runs/$experiment

"$rnnbench" run "experiment=$experiment" "results_dir=$runs" "$@"
"$rnnbench" table --runs "$runs/runs" --metric nll_step,nll_seq --format markdown \
  --output "results/$experiment/table.md" --runs-csv "results/$experiment/runs.csv"
"$rnnbench" table --runs "$runs/runs" --metric nll_step,nll_seq --format csv --output "results/$experiment/table.csv"
cat "results/$experiment/table.md"
