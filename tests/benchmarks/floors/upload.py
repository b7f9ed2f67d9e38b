"""Sends a scan through Graph as a draft: creates it, uploads the file at the end of the message, sends it.

Arguments: file of authorities, URL of the mailbox's messages, right to it, the draft in JSON, octets in a
range; the message is on standard input.
"""

import base64
import os
import sys
from urllib.parse import quote

import requests

authorities, url, right, draft, octets = sys.argv[1:]
message = sys.stdin.buffer.read()
file = base64.b64decode(message[message.rindex(b"\n\n") : message.rindex(b"\n--")])
session = requests.Session()
session.verify = authorities
headers = {"Authorization": right, "Prefer": 'IdType="ImmutableId"', "Content-Type": "application/json"}
made = session.post(url, data=draft, headers=headers)
url += "/" + quote(made.json()["id"], safe="")
item = {"attachmentType": "file", "name": "scan.pdf", "contentType": "application/pdf", "size": len(file)}
begun = session.post(f"{url}/attachments/createUploadSession", json={"AttachmentItem": item}, headers=headers)
for start in range(0, len(file), int(octets)):
    block = file[start : start + int(octets)]
    whole = f"bytes {start}-{start + len(block) - 1}/{len(file)}"
    kind = {"Content-Type": "application/octet-stream", "Content-Range": whole}
    session.put(begun.json()["uploadUrl"], data=block, headers=kind)
answer = session.post(f"{url}/send", headers=headers)
# Not sys.exit(): that would tear the interpreter down first.
os._exit(answer.status_code != 202)
