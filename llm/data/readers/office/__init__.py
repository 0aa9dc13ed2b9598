"""Readers of office documents: word processing, spreadsheets, presentations."""
