"""Warmest and wettest month of Seattle, 2012 to 2015: real data, from the package vega_datasets."""

import calendar

from vega_datasets import local_data

weather = local_data.seattle_weather()
months = weather.groupby(weather["date"].dt.month)
warmest = months["temp_max"].mean()
wettest = months["precipitation"].mean()
print(f"{len(weather)} days, {weather['date'].min():%Y-%m-%d} to {weather['date'].max():%Y-%m-%d}")
print(f"warmest: {calendar.month_name[warmest.idxmax()]}, {warmest.max():.1f} °C on average")
print(f"wettest: {calendar.month_name[wettest.idxmax()]}, {wettest.max():.1f} mm a day")
