#!/usr/bin/env bash
# scripts/ten_seeds.sh: three cells, two music sets, adding and copy memory, ten seeds each, and all that is said of them.
#
# What is finished is not run again, and what was interrupted goes on. Writes results/ten_seeds/. For the times, which are
# of runs made alone, nothing else should use the machine meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
rnnbench=.venv/bin/rnnbench
[ -x "$rnnbench" ] || rnnbench=rnnbench
dir=results/runs/ten_seeds
runs=$dir/runs
alone=results/runs/alone
out=results/ten_seeds

"$rnnbench" run experiment=ten_seeds results_dir=$dir
"$rnnbench" run experiment=lengths results_dir=$dir
"$rnnbench" run experiment=alone results_dir=$alone
"$rnnbench" table --runs $runs --metric nll_step,nll_seq --format markdown --output $out/table.md --runs-csv $out/runs.csv
"$rnnbench" table --runs $runs --metric nll_step,nll_seq --format csv --output $out/table.csv
"$rnnbench" compare --runs $runs --format markdown --output $out/compare.md
"$rnnbench" compare --runs $runs --format csv --output $out/compare.csv
"$rnnbench" compare --runs $alone/runs --metric us_per_update --format markdown --output $out/times.md
"$rnnbench" diagnose --runs $runs --limit 3 --output $out
"$rnnbench" plot curves lengths --runs $runs --output $out
"$rnnbench" plot times --runs $alone/runs --output $out
"$rnnbench" report --runs $runs --output $out/report.html --curves results/curves/ten_seeds
