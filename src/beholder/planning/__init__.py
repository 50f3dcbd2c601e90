"""How long a job will take and what it reads and writes, from rates that were measured on a machine beforehand."""
