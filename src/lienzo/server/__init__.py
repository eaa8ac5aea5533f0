"""The service: REST over a durable queue, with workers in processes of their own.

settings   what it is told
jobs       the queue: a table and what may happen to its rows; knows no pictures
store      where pictures and inputs lie
worker     takes jobs, makes pictures through the studio, stores them
keepers    starts workers, and starts those anew that died
access     who calls, and what they may do: roles and API keys
oidc       bearer tokens of somebody else's accounts
limits     how much they may ask for: rates and quotas
audit      what was done, and every verdict
problems   errors as HTTP tells them (RFC 9457)
app        the routes

The API and the workers share nothing but the database and the store, so that either may die at any moment.
"""
