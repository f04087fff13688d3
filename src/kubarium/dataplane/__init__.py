"""What serves requests beside the API: the MCP server today, model serving later."""
