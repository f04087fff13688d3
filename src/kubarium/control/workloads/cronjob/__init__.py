"""The CronJob controller (batch/v1). The clock work is in schedule.py."""
