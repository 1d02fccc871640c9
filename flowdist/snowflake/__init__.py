"""What the driver and the workers share of Snowflake: names, connections, stages.

Where jobs start is `flowdist.backends.snowflake`; what runs in a container is `flowdist.workers`.
"""
