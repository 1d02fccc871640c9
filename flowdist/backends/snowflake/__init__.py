"""Jobs in containers of Snowflake: Snowpark Container Services."""
