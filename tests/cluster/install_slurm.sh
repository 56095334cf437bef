#!/usr/bin/env bash
# What `make test-slurm` needs of Debian's packages, where it is missing; none of its services is started by this.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
for program in munged mariadbd slurmdbd slurmctld slurmd; do
  command -v "$program" > /dev/null && continue
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm slurmdbd munge mariadb-server
  break
done
