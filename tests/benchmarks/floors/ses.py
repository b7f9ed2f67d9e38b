"""Sends a message through SES.

Arguments: file of authorities, endpoint, region, key id, key, sender, recipients; the message is on
standard input.
"""

import os
import sys

import boto3

authorities, endpoint, region, key_id, key, sender, *recipients = sys.argv[1:]
client = boto3.client(
    "sesv2",
    region_name=region,
    endpoint_url=endpoint,
    aws_access_key_id=key_id,
    aws_secret_access_key=key,
    verify=authorities,
)
answer = client.send_email(
    FromEmailAddress=sender,
    Destination={"ToAddresses": recipients},
    Content={"Raw": {"Data": sys.stdin.buffer.read()}},
)
# Not sys.exit(): that would tear the interpreter down first.
os._exit(not answer["MessageId"])
