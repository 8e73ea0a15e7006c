#!/bin/bash
#SBATCH --job-name=vbdguard --array=1-32 --cpus-per-task=8 --mem=16G --time=02:00:00
export VBDGUARD_CACHE=/scratch/$USER/vbdguard  # shared: what one job has read, none reads again
mkdir -p "/scratch/$USER/parts"
vbdguard scan /data/train/ --image-size 96 --jobs 8 --worker-memory 1536 \
  --shard "$SLURM_ARRAY_TASK_ID/32" --partial "/scratch/$USER/parts/$SLURM_ARRAY_TASK_ID"
