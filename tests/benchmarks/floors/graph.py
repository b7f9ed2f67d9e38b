"""Posts a request as it is.

Arguments: file of authorities, URL, header fields; the body is on standard input.
"""

import os
import sys

import requests

authorities, url, *fields = sys.argv[1:]
headers = dict(field.split(": ", 1) for field in fields)
answer = requests.post(url, data=sys.stdin.buffer.read(), headers=headers, verify=authorities)
# Not sys.exit(): that would tear the interpreter down first.
os._exit(answer.status_code != 202)
