"""The service: REST and a page over a durable queue, with workers in processes of their own.

run, app   from settings to an application that listens; routes/: one file a group of routes; page/: for the browser
desk       what every route needs; clients: what the interfaces of other programs share
settings   what it is told
jobs       the queue: a table and what may happen to its rows; knows no pictures
schema     the tables; migrations/: how older databases come to look like that
store      bytes by name, in a folder or any place that fsspec knows; pictures: finished and input pictures in it
worker     takes jobs, makes pictures through the studio, stores them
keepers    starts workers, starts those anew that died or hang, and removes what is kept no longer
watching   wakes who watches a job; looking: what detection computes, in a process of its own
gate       lets callers in, by what the next three say
access     who calls, and what they may do: roles and API keys
oidc       bearer tokens of somebody else's accounts
limits     how much they may ask for: rates and quotas
audit      what was done, and every verdict
problems   errors as HTTP tells them (RFC 9457)
metrics    what is measured, for Prometheus; tracing: for OpenTelemetry

The API and the workers share nothing but the database, the store and the files of metrics, so that either may die at any moment.
"""
