#!/usr/bin/env python3
"""Deletes Kubernetes Jobs of the workflow by name, with their pods."""

import os
import subprocess
import sys

from submit import namespace

command = ["kubectl", *namespace(os.environ), "delete", "job", "--wait=false", "--ignore-not-found"]
sys.exit(subprocess.run([*command, *sys.argv[1:]]).returncode)
